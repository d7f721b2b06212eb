"""Prints what makes a terminal show a success in place of the failure."""

print("\x1b[2J\x1b[1;1Hok    runs\x1b]0;passed\x07\x9b2K\r\x08\x08\u202eko")
raise ValueError("\x1b[1A\x1b[2Kok    passed\r\u2028ok")
