"""The command line before and after a run: what was asked for, whether it can be, and what came of it.

Only here, in `esper.runs` and in `esper.train` is a `DictConfig` seen. Nothing here loads torch.
"""
