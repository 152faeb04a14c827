"""``make sanitize`` runs these tests on a build under ASan and UBSan, and then those of ``sanitized`` too."""

from tilewright import _C

collect_ignore = [] if _C.build_info()["sanitize"] else ["sanitized"]
