"""Networks as pairs of pure functions; the only package that imports flax."""

from jaxql.networks.build import (
    CONVOLUTIONAL as CONVOLUTIONAL,
    accepts as accepts,
    default_network as default_network,
    is_image as is_image,
    make_network as make_network,
    shrink_and_perturb as shrink_and_perturb,
)
from jaxql.networks.layers import Conv as Conv, Impala as Impala, NoisyDense as NoisyDense
from jaxql.networks.masks import observation_of as observation_of, with_action_mask as with_action_mask
from jaxql.networks.q_network import QNetwork as QNetwork, from_flax as from_flax
from jaxql.networks.recurrent import RecurrentQNetwork as RecurrentQNetwork, recurrent_from_flax as recurrent_from_flax
