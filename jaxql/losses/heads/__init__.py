"""Heads: what a network's output says of an action, one file each.

A head is a `jaxql.types.Head`: the network's outputs for each action, their values, a target and a loss. A head of your
own is such a value; `jaxql.losses.q_loss` joins it with any backup.
"""

from collections.abc import Callable

from jaxql.losses.heads.categorical import categorical as categorical
from jaxql.losses.heads.full_quantile import full_quantile as full_quantile
from jaxql.losses.heads.hl_gauss import hl_gauss as hl_gauss
from jaxql.losses.heads.implicit_quantile import implicit_quantile as implicit_quantile
from jaxql.losses.heads.quantile import quantile as quantile
from jaxql.losses.heads.scalar import scalar as scalar
from jaxql.losses.heads.two_hot import two_hot as two_hot
from jaxql.types import FullQuantiles as FullQuantiles, Head

HEADS: dict[str, Callable[..., Head]] = {
    "scalar": scalar,
    "categorical": categorical,
    "quantile": quantile,
    "implicit-quantile": implicit_quantile,
    "full-quantile": full_quantile,
    "hl-gauss": hl_gauss,
    "two-hot": two_hot,
}
