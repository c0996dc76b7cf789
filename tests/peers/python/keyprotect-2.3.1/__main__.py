"""PyPI `keyprotect` 2.3.1, the hand-written client, as its README uses it.

It speaks `application/json`, sends no body at all to rotate, and shows the first
`errorMsg` of a refusal as the text of its exception.
"""

import keys
import refusals
import usage
import wrapping
from stories import tell
from user import User

tell(User, keys, wrapping, refusals, usage)
