"""What the papers claim, what was measured, and what follows.

``register.yml`` holds every testable claim, its comparison and its margin, written down before the measurement.
``records/`` holds what was measured, one small JSON file a claim. ``verdicts`` turns the two into verdicts and knows
nothing else. ``python -m wsl_core.claims measure`` makes the records, ``python -m wsl_core.claims status`` reads them.
"""

from wsl_core.claims.live import LivePosition, live_position
from wsl_core.claims.records import Record, load_record, load_records, records_for
from wsl_core.claims.register import Claim, Register, load_register
from wsl_core.claims.scorecard import claims_markdown, claims_summary, claims_table, scorecard_markdown
from wsl_core.claims.verdicts import Verdict, classify, judge

__all__ = [
    "Claim",
    "LivePosition",
    "Record",
    "Register",
    "Verdict",
    "claims_markdown",
    "claims_summary",
    "claims_table",
    "classify",
    "judge",
    "live_position",
    "load_record",
    "load_records",
    "load_register",
    "records_for",
    "scorecard_markdown",
]
