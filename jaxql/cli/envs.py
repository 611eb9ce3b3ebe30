"""`jaxql envs [WORD ...]`: lists the envs that can be named."""

import dataclasses
import json

from jaxql.cli.options import parse_words
from jaxql.errors import UserError, nearest

SYNTAX = "envs [WORD ...]"
SUMMARY = "list envs: observations, actions, agents that are tuned for them, what to install"


@dataclasses.dataclass(frozen=True)
class Options:
    """Lists the envs whose names contain a WORD, or all. An env of another package is MODULE:NAME."""

    json: bool = False  # print one JSON array


def run(argv: list[str]) -> int:
    """Prints the list and returns the exit code."""
    words, given = parse_words(Options, argv, "envs", "[WORD ...]")
    from jaxql.agents.registry import REGISTRY
    from jaxql.envs.catalogue import describe, missing, names
    from jaxql.lab.compare import text_table

    known = names()
    chosen = [(id, kind) for id, kind in known if not words or any(word.lower() in id.lower() for word in words)]
    if not chosen:
        hint = nearest(words[0], [id for id, _ in known])
        raise UserError(f'no env has {" or ".join(words)} in its name{hint}; "jaxql envs" lists all')
    tuned = {
        id: [name for name in ("q-learning", "dqn", "pqn", "r2d2") if id in REGISTRY[name].tuned] for id, _ in known
    }
    games = [id for id, kind in chosen if kind == "Atari" and not words and not tuned[id] and not given.json]
    found = [info for id, kind in chosen if id not in games and (info := describe(id, kind))]
    if given.json:
        print(json.dumps([{**info._asdict(), "tuned": tuned[info.id]} for info in found], indent=1))
        return 0
    rows = [
        [info.id, info.obs or "-", str(info.num_actions or "-"), ", ".join(tuned[info.id]) or "-", info.kind]
        for info in found
        if not info.lacks
    ]
    if rows:
        print(text_table(["env", "observations", "actions", "tuned for", "kind"], rows))
    lacking = [f"{info.id}: {info.lacks}" for info in found if info.lacks] + ([] if words else missing())
    if lacking:
        print("\nnot here:" if rows else "not here:", *lacking, sep="\n  ")
    if games:
        count = sum(id.startswith("ALE/") for id in games)
        print(f'\nand {count} more Atari games, as NAMENoFrameskip-v4 or ALE/NAME-v5: "jaxql envs ale/" lists them')
    return 0
