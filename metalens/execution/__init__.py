"""How an outer step is executed on this machine: batching, memory, compiling, precision."""
