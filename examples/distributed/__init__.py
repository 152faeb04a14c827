"""Training in several processes. Each example proves that its losses are those of a single process.

    torchrun --nproc-per-node 2 examples/distributed/ddp.py                data parallel: DistributedDataParallel
    torchrun --nproc-per-node 2 examples/distributed/fsdp.py               sharded parameters: fully_shard (FSDP2)
    torchrun --nproc-per-node 2 examples/distributed/tensor_parallel.py    split layers: parallelize_module

On CPUs, over gloo; without torchrun each runs as one process.
"""
