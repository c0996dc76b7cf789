"""Attribute templates for the token objects and for root keys in use.

The order of entries matters to SoftHSM, and python-pkcs11 keeps the order of a
dict: MODIFIABLE=False must come last, because each attribute is applied in turn
and nothing can be set after it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import Any, Final

from pkcs11 import Attribute, KeyType, MechanismFlag, ObjectClass
from pkcs11.attributes import AttributeMapper

from keycore.domain.keys import ROOT_KEY_BYTES

Template = dict[Attribute, Any]
"""Attribute values as python-pkcs11 takes them; their types differ by attribute."""

KEY_BITS: Final = 8 * ROOT_KEY_BYTES

NO_CAPABILITIES: Final = MechanismFlag(0)

LOCKED: Final[Template] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
"""For the token objects. Without the last two, a PIN holder could give the
master key the right to decrypt, or copy it with that right."""

IN_USE: Final[Template] = LOCKED
"""For a root key unwrapped into a session object; capabilities are passed apart."""

HIDDEN: Final[Template] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
}
"""For a root key unwrapped by a token that may know neither CKA_COPYABLE nor the other two
at unwrap; so MODIFIABLE stays, and what was passed over is set afterwards."""

IN_TRANSIT: Final[Template] = {
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: True,
}
"""For a root key between its making and its wrapping: no capability, a few microseconds."""

THIEF: Final[tuple[Template, ...]] = (
    {Attribute.PRIVATE: True, Attribute.SENSITIVE: False, Attribute.EXTRACTABLE: True},
    {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: True},
    {Attribute.PRIVATE: True},
)
"""What a thief with PIN and store would unwrap a root key with."""

UNWRAP_TEMPLATE: Final[Template] = {
    Attribute.CLASS: ObjectClass.SECRET_KEY,
    Attribute.KEY_TYPE: KeyType.AES,
    Attribute.TOKEN: False,
    Attribute.PRIVATE: True,
    Attribute.SENSITIVE: True,
    Attribute.EXTRACTABLE: False,
    Attribute.ENCRYPT: True,
    Attribute.DECRYPT: True,
    Attribute.WRAP: False,
    Attribute.UNWRAP: False,
    Attribute.SIGN: False,
    Attribute.VERIFY: False,
    Attribute.DERIVE: False,
    Attribute.COPYABLE: False,
    Attribute.MODIFIABLE: False,
}
"""CKA_UNWRAP_TEMPLATE of the master key (PKCS#11 v3.0, 4.9): the token refuses to
unwrap a stored key with anything but these attributes, so never readable."""


class _CkAttribute(ctypes.Structure):
    """CK_ATTRIBUTE as PKCS#11 v3.0, 3.3 lays it out in memory."""

    _fields_ = (
        ("type", ctypes.c_ulong),
        ("value", ctypes.c_void_p),
        ("length", ctypes.c_ulong),
    )


class UnwrapTemplateMapper(AttributeMapper):
    """Teaches python-pkcs11 to pass CKA_UNWRAP_TEMPLATE, an attribute holding attributes.

    The packed value holds pointers into buffers of this process, so the buffers
    are kept for the life of the mapper; without that the module reads freed memory.
    """

    def __init__(self) -> None:
        """Register the handler; reading the attribute back is not supported."""
        super().__init__()
        self._kept: list[object] = []
        self.register_handler(Attribute.UNWRAP_TEMPLATE, self._pack_template, _refuse_unpack)

    def _pack_template(self, template: Mapping[Attribute, Any]) -> bytes:
        array = (_CkAttribute * len(template))()
        for slot, (attribute, value) in zip(array, template.items(), strict=True):
            packed = self.pack_attribute(attribute, value)
            buffer = ctypes.create_string_buffer(packed, len(packed))
            self._kept.append(buffer)
            slot.type = int(attribute)
            slot.value = ctypes.cast(buffer, ctypes.c_void_p)
            slot.length = len(packed)
        return bytes(array)


def _refuse_unpack(_: bytes) -> None:
    raise NotImplementedError("an unwrap template is proved by behaviour, not read back")
