"""Results that the pages show, committed: of a study each cell, and the comparisons made of ranks.

``NAME.json`` of a study is written by the ``--docs`` of its command. From these files alone
``python -m benchmarks.recorded`` makes the tables and pictures of the pages and the figures of
their prose again, and a test finds each of them in the files.
"""
