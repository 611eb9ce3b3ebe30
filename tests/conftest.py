"""JAX is the critic: ranks do not broadcast silently, and warnings are errors (pyproject.toml)."""

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")
