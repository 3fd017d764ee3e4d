"""Where computation runs: devices of one process, processes of one run, CUDA."""
