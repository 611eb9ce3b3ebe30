"""CartPole as a JAX program: Gymnasium's CartPole-v1, state by state."""

import math

import jax
import jax.numpy as jnp

from jaxql.envs.worlds import World

GRAVITY, FORCE, SECONDS = 9.8, 10.0, 0.02
CART, POLE, HALF_LENGTH = 1.0, 0.1, 0.5  # masses, and half the pole
POSITION_LIMIT, ANGLE_LIMIT = 2.4, 12 * 2 * math.pi / 360


def cartpole() -> World:
    """A cart is pushed left (0) or right (1) under a pole; +1 a step, until the cart or the pole is out of bounds.

    A state is [position, velocity, angle, angular velocity] in the default float; the first is uniform in +-0.05. The
    limit of 500 steps truncates. Steps are Euler's, of Barto, Sutton & Anderson (1983), appendix, without friction,
    https://doi.org/10.1109/TSMC.1983.6313077, as in Gymnasium's CartPole-v1, whose observations are rounded to float32.

    >>> world = cartpole()
    >>> state, reward, terminated = world.step(None, jnp.zeros(4), 1)
    >>> print([round(float(x), 3) for x in state], reward, terminated)
    [0.0, 0.195, 0.0, -0.293] 1.0 False
    """

    def reset(key):
        return jax.random.uniform(key, (4,), float, -0.05, 0.05)

    def step(key, state, action):
        position, velocity, angle, turning = state
        mass, cos, sin = CART + POLE, jnp.cos(angle), jnp.sin(angle)
        push = (jnp.where(action == 1, FORCE, -FORCE) + POLE * HALF_LENGTH * turning**2 * sin) / mass
        angular = (GRAVITY * sin - cos * push) / (HALF_LENGTH * (4 / 3 - POLE * cos**2 / mass))
        linear = push - POLE * HALF_LENGTH * angular * cos / mass
        state = state + SECONDS * jnp.stack([velocity, linear, turning, angular])
        return state, 1.0, (jnp.abs(state[0]) > POSITION_LIMIT) | (jnp.abs(state[2]) > ANGLE_LIMIT)

    return World(reset=reset, step=step, num_actions=2, step_limit=500)
