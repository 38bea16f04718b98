"""What curves are called: what differs between them, with its key, and no more; without torch."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from reslightning.compare.groups import Group, Table
from reslightning.run.record import RunRecord

FACTS = {"model.arch": "arch", "seed_everything": "seed"}  # options that a run's summary says, too


def labels(tables: Sequence[Table]) -> list[str]:
    """Return a label for each row of tables, in order: ``arch resnet56, lr 0.05``.

    Rows of several tables have in brackets what differs between the tables' titles; runs whose options are all the
    same, when they were started, or at last their names.
    """
    titles = _differing_words([table.title for table in tables])
    rows = [(title, group) for title, table in zip(titles, tables, strict=True) for group in table.groups]
    found = [""] * len(rows)
    for kind in (True, False):  # of one table's groups and another's single runs, each among their like
        places = [place for place, (_, group) in enumerate(rows) if bool(group.key) is kind]
        facts = [_facts(rows[place][1], rows[place][0]) for place in places]
        for place, words in zip(places, _differing_facts(facts), strict=True):
            title, group = rows[place]
            found[place] = (words or group.label) + (f" ({title})" if title else "")
    return _told_apart(found, [group for _, group in rows])


def heading(tables: Sequence[Table]) -> str:
    """Return what all rows share: the network of several, and the title of their table; nothing of several tables."""
    if len(tables) != 1:
        return ""
    ((title, groups),) = tables
    archs = {run.summary.get("arch") for group in groups for run in group.runs}
    return f"{archs.pop()} on {title}" if len(groups) > 1 and len(archs) == 1 and None not in archs else title


def _differing_words(titles: Sequence[str]) -> list[str]:
    """Return what tells titles apart, of one alone nothing."""
    words = [re.split(r", | (?=\()", title) for title in titles]
    return [", ".join(word for word in own if not all(word in other for other in words)) for own in words]


def _facts(group: Group, title: str) -> dict[str, str]:
    """Return what a row is known by: what it is grouped by, or a run's network, options and seed; not what it says."""
    if group.key:
        return dict(group.key)
    summary = group.runs[0].summary
    options = {key: value for key, value in sorted((summary.get("options") or {}).items()) if key not in FACTS}
    facts = {"arch": summary.get("arch"), **options, "seed": summary.get("seed")}
    return {key: str(value) for key, value in facts.items() if value is not None and str(value) not in title.split()}


def _differing_facts(facts: Sequence[Mapping[str, str]]) -> list[str]:
    """Return of each row what is not the same in all; where nothing is, its network."""
    known = [own for own in facts if own]  # of a run that is cut there may be none
    keys = dict.fromkeys(key for own in known for key in own)
    different = [key for key in keys if len({own.get(key) for own in known}) > 1]
    different = different or [key for key in keys if key == "arch"]
    short = Counter(map(_short, different))
    names = {key: _short(key) if short[_short(key)] == 1 else key for key in different}
    return [", ".join(f"{names[key]} {own.get(key, 'none')}" for key in different) if own else "" for own in facts]


def _short(key: str) -> str:
    """Return model.optim.lr as lr, and model.optim.name as optim."""
    return key.removesuffix(".name").rpartition(".")[2]


def _told_apart(names: list[str], groups: Sequence[Group]) -> list[str]:
    """Return labels with what tells those apart that are the same."""
    found = list(names)
    for name, count in Counter(names).items():
        places = [place for place, other in enumerate(names) if other == name]
        starts = [_started(groups[place].runs[0]) for place in places]
        for place, start in zip(places, starts, strict=True):
            if count > 1:
                apart = all(starts) and len(set(starts)) == count
                found[place] += f", started {start}" if apart else f", {groups[place].runs[0].name}"
    return found


def _started(run: RunRecord) -> str:
    """Return when a run was started, as 2015-12-10 08:30:00; nothing where that is not known."""
    segments = run.summary.get("segments") or [{}]
    return str(segments[0].get("started") or "")[:19].replace("T", " ")
