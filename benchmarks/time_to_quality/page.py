"""The picture and the table"""


def into_docs(files): ...
