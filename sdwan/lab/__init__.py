"""The lab: networks to try the product in, troubles to try it with, and what came of it.

    namespace     network namespaces and the programs in them
    impairment    what a link does to frames: the model, pure, in virtual time
    emulator      the process that does it to real frames; timer, its clock
    shaping       what the kernel can do itself: tc arguments, and whether it has netem
    link          one wire between two namespaces, of five kinds
    home          what a lab leaves on a machine, and how all of it is removed
    topology      sites and links become a lab: a context manager that leaves nothing behind
    values        impairments as people write them: 20mbit, 10ms, 0.1%
    traces        rates that change: read from a file, or made from a seed
    configs       keys and configurations of sites
    site          the running edge of each site
    traffic       iperf3 and ping
    copy          a TCP copy of a file, with a checksum at the far end
    stream        datagrams at even times: the gap that a user would hear, the fate of each
    churn         short flows that come and go
    scenario      the shape of a scenario file; scenarios/ holds the ready ones, scenarios/measured/ those
                  the project promises figures for
    ceiling       what the links of a scenario could carry at any moment
    loads         starts the loads of a scenario, ends them, makes figures of them
    series        counters over time while it plays
    figures       loads and series held against the ceiling
    targets       metrics by name, expectations, verdicts, medians
    runner        plays a scenario, in rounds, and judges it
    result        what came of it
    suite         many scenarios, each in a lab of its own; files
    report        tables for people
    picture       a scenario over time as a PNG
    demo          two sites, two links, a file, a cut cable

May be imported by sdwan.cli and benchmarks; never imports sdwan.edge: the product is driven from outside, by
its own commands.
"""
