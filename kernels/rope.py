"""Rotary position embedding for a few tokens, angles and all: pairs (i, i + d/2), "rotate half".

Angles are reduced in fp32 with one constant for 2 pi, so accuracy falls with the position (the published algorithm);
the scalar engine's sine does not reduce its argument at all.
"""

import nki.isa as nisa
import nki.language as nl

PI = 3.141592653589793
TURN = 6.283185307179586


def load_angles(space, rope_pos_ids, inv_freqs):
    """rope_angle [d/2, B*s] fp32 = rope_pos_ids[b, j] * inv_freqs[i]."""
    half = inv_freqs.shape[0]
    count = rope_pos_ids.shape[0] * rope_pos_ids.shape[1]
    positions = space.alloc((half, count), nl.float32, name="rope_positions")
    nisa.dma_copy(dst=positions, src=rope_pos_ids.reshape((1, count)).broadcast(0, half))
    frequencies = space.alloc((half, 1), nl.float32, name="rope_frequencies")
    nisa.dma_copy(dst=frequencies, src=inv_freqs)
    angle = space.alloc((half, count), nl.float32, name="rope_angle")
    nisa.tensor_scalar(
        dst=angle, data=positions, op0=nl.multiply, operand0=frequencies, engine=nisa.vector_engine
    )
    return angle


def wave_of(space, angle, e):
    """sin(angle) for e = 0, cos(angle) = sin(angle + pi/2) for e = 1: fp32 [d, columns], both halves alike."""
    half, count = angle.shape
    shape = (half, count)
    shifted = space.alloc(shape, nl.float32, name=f"rope_shifted_{e}")
    shift = PI if e == 0 else 1.5 * PI
    nisa.tensor_scalar(dst=shifted, data=angle, op0=nl.add, operand0=shift, engine=nisa.vector_engine)
    residual = residual_of(space, shifted, e)
    wave = space.alloc(shape, nl.float32, name=f"rope_wave_{e}")
    nisa.activation(dst=wave, op=nl.sin, data=residual)
    both = space.alloc((2 * half, count), nl.float32, name="rope_wave_both")
    nisa.tensor_copy(dst=both[0:half, :], src=wave, engine=nisa.vector_engine)
    nisa.tensor_copy(dst=both[half : 2 * half, :], src=wave, engine=nisa.vector_engine)
    return both


def residual_of(space, shifted, e):
    """shifted - pi less the nearest whole number of turns: about [-pi, pi]. Positions are not negative."""
    turns = space.alloc(shifted.shape, nl.float32, name=f"rope_turns_{e}")
    nisa.tensor_scalar(
        dst=turns, data=shifted, op0=nl.multiply, operand0=1 / TURN, op1=nl.add, operand1=-0.5,
        engine=nisa.vector_engine,
    )
    # The cast to int32 rounds to nearest, which the half turn taken off above relies on.
    count = space.alloc(shifted.shape, nl.int32, name=f"rope_count_{e}")
    nisa.tensor_copy(dst=count, src=turns, engine=nisa.vector_engine)
    whole = space.alloc(shifted.shape, nl.float32, name=f"rope_whole_{e}")
    nisa.tensor_scalar(dst=whole, data=count, op0=nl.multiply, operand0=TURN, engine=nisa.vector_engine)
    diff = space.alloc(shifted.shape, nl.float32, name=f"rope_diff_{e}")
    nisa.tensor_tensor(dst=diff, data1=shifted, data2=whole, op=nl.subtract, engine=nisa.vector_engine)
    residual = space.alloc(shifted.shape, nl.float32, name=f"rope_residual_{e}")
    nisa.tensor_scalar(dst=residual, data=diff, op0=nl.add, operand0=-PI, engine=nisa.vector_engine)
    return residual


def rotate(space, result, x, sine, cosine, batches, heads, r):
    """result := x * cos + (-x[i + d/2], x[i - d/2]) * sin; result and x are [d, B*heads*s], the waves [d, B*s].

    The sine part is rounded to the dtype of x, so x from HBM is widened to fp32 before. `r` numbers the operand in
    names of tiles.
    """
    half = x.shape[0] // 2
    turned = space.alloc(x.shape, x.dtype, name="rope_turned")
    nisa.tensor_scalar(
        dst=turned[0:half, :], data=x[half : 2 * half, :], op0=nl.multiply, operand0=-1.0,
        engine=nisa.vector_engine,
    )
    nisa.tensor_copy(dst=turned[half : 2 * half, :], src=x[0:half, :], engine=nisa.vector_engine)
    cosine_part = space.alloc(x.shape, nl.float32, name=f"rope_cosine_part_{r}")
    nisa.tensor_tensor(
        dst=cosine_part, data1=x, data2=over_heads(cosine, batches, heads), op=nl.multiply,
        engine=nisa.vector_engine,
    )
    sine_part = space.alloc(x.shape, x.dtype, name=f"rope_sine_part_{r}")
    nisa.tensor_tensor(
        dst=sine_part, data1=turned, data2=over_heads(sine, batches, heads), op=nl.multiply,
        engine=nisa.vector_engine,
    )
    nisa.tensor_tensor(dst=result, data1=cosine_part, data2=sine_part, op=nl.add, engine=nisa.vector_engine)


def over_heads(wave, batches, heads):
    """wave [d, B*s] as a stride-0 view [d, B, heads, s]."""
    return wave.reshape((wave.shape[0], batches, 1, wave.shape[1] // batches)).broadcast(2, heads)
