"""A per-packet bonded SD-WAN overlay: one encrypted tunnel over several links.

Rooms, and who may import whom (imports go downward only; tests/unit/test_layers.py enforces it):

    cli → {edge, controller, lab} → {core, io, config, metrics} → {model, errors}

``core`` is pure: no socket, clock, randomness, thread or log; time comes in as ``now_ns``. ``io``
knows the world and nothing of the protocol. Exactly one module, ``sdwan.io.bpf``, imports bcc.
"""

__version__ = "0.1.0"
