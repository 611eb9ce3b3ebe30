"""Fast convolutions and random numbers. `README.md` says which private interfaces they rest on."""

from jaxql.kernels.convolution import convolve as convolve
from jaxql.kernels.keys import derive_key as derive_key
from jaxql.kernels.private import (
    forget_notes as forget_notes,
    notes as notes,
    private_is_used as private_is_used,
    use_private as use_private,
)
