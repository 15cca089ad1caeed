"""What a prefill call tells of itself."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Statistics:
    """What one call over a layer computed.

    Attributes
    ----------
    density : numpy.ndarray
        ``[num_sequences, num_query_heads]``: pairs computed over causal pairs.
    fallback : numpy.ndarray
        ``[num_sequences, num_query_heads]``: whether the head ran densely because its pattern would not have
        paid.
    pairs, all_pairs : int
        Over all sequences and heads; their ratio is the density of the call.
    seconds_estimate, seconds_select, seconds_index, seconds_attend : float
        Time of each step. On CUDA, where they are not timed apart, the last is the time of all.
    """

    density: object
    fallback: object
    pairs: int
    all_pairs: int
    seconds_estimate: float
    seconds_select: float
    seconds_index: float
    seconds_attend: float

    @property
    def seconds(self):
        """Time of all steps."""
        return self.seconds_estimate + self.seconds_select + self.seconds_index + self.seconds_attend
