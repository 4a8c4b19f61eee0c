"""torchrun, as a fork of a process that has loaded everything: `agent.py` and torchrun's arguments.

At every step of a rendezvous torch logs who called, for which `inspect.stack` looks through all
loaded modules: seconds with thousands of them, as a fork has.
"""

from torch.distributed import run
from torch.distributed.elastic.rendezvous import dynamic_rendezvous

if __name__ == "__main__":
    dynamic_rendezvous.get_method_name = lambda *_, **__: "a step"
    run.main()
