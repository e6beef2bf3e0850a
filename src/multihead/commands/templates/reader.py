"""A format of files of your own: TRAIN

This one reads pairs of lines: "> SOURCE" and below it "< TARGET". Other lines are left out.
"""

from multihead.plugin import Plugin


def my_reader(path, columns, config):
    """Each column's texts, all of one length, in the order of the file.

    Args:
        path: One of the files of data.train, data.val or data.test, a `pathlib.Path`.
        columns: Names of the columns that the task needs; data.roles gives a role another column.
        config: The node data, such as config.encoding.
    """
    found = {"source": [], "target": []}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("> "):
            found["source"].append(line[2:])
        elif line.startswith("< "):
            found["target"].append(line[2:])
        if not 0 <= len(found["source"]) - len(found["target"]) <= 1:
            raise ValueError(f"{path}:{number}: a source and a target must take turns")
    return found


PLUGIN = Plugin(readers={"my_reader": my_reader})
