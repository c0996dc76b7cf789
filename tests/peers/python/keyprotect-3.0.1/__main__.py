"""PyPI `keyprotect` 3.0.1, the generated SDK, as its README uses it.

That README calls `get_result().json()`, which works as long as answers are not of the
type `application/json`.
"""

import keys
import refusals
import usage
import wrapping
from stories import tell
from user import User

tell(User, keys, wrapping, refusals, usage)
