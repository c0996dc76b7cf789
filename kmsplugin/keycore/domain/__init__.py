"""Plain values and pure rules: no I/O, no clock, no library besides the standard one."""
