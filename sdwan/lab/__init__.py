"""The lab: networks to try the product in, troubles to try it with, and what came of it.

    namespace     network namespaces and the programs in them
    impairment    what a link does to frames: the model, pure, in virtual time
    emulator      the process that does it to real frames; timer, its clock
    shaping       what the kernel can do itself: tc arguments, and whether it has netem
    link          one wire between two namespaces, of five kinds
    home          what a lab leaves on a machine, and how all of it is removed
    topology      sites and links become a lab: a context manager that leaves nothing behind
    values        impairments as people write them: 20mbit, 10ms, 0.1%
    configs       keys and configurations of sites
    site          the running edge of each site
    traffic       iperf3 and ping: the loads
    copy          a TCP copy of a file, with a checksum at the far end
    stream        a 5 ms probe stream: the gap that a user would hear
    scenario      the shape of a scenario file; scenarios/ holds the ready ones
    runner        plays a scenario and judges it
    report        tables for people, JSON for machines
    demo          two sites, two links, a file, a cut cable

May be imported by sdwan.cli and benchmarks; never imports sdwan.edge: the product is driven from outside, by
its own commands.
"""
