"""Benchmarks: ratios against bare veth and against rivals from the distribution, in one run on one machine.

    contenders   bare link, our tunnel, OpenVPN, wireguard-go: started alike, asked alike
    openvpn wireguard_go   how the rivals are set up
    measures     what is measured, each a function that returns numbers
    machine      what it was measured on
    targets      what the figures must reach, and whether they do
    benchmark    `make benchmark`: runs all of it, prints tables, writes build/benchmark.json

Stands on sdwan.lab for networks and loads. No timing is ever asserted in a test: this is the place for it.
"""
