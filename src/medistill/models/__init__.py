"""Networks. Importing this registers `eeea_net_c2` and `ofa_595` with timm."""

from medistill.models import ofa as _ofa  # noqa: F401  (registers with timm)
