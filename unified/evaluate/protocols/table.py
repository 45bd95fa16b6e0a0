"""The kinds of evaluations."""

from unified.evaluate import robustness
from unified.evaluate.dense import protocol as dense
from unified.evaluate.protocols import caption, classification, masked, retrieval

PROTOCOLS = {
    protocol.settings: protocol
    for protocol in (
        classification.PROTOCOL,
        retrieval.PROTOCOL,
        masked.PROTOCOL,
        caption.PROTOCOL,
        dense.PROTOCOL,
        robustness.PROTOCOL,
    )
}
"""By their settings in a spec."""
