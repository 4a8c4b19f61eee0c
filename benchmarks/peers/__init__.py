"""What this package's speed is, beside what people would use instead and what the machine can do.

In: a workload. Out: a `record.Report`: rates, ratios of rates taken in the same minute, shares of
measured ceilings. One file a section; `sections.py` lists them.
"""
