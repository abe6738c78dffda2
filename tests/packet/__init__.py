"""BPF_PROG_TEST_RUN tables: packet and maps in, verdict, packet and counters out."""
