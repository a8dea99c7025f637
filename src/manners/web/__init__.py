"""The feedback app: where people rank answers in a browser. No torch in here."""

from manners.web.app import create_app
from manners.web.office import WebSettings

__all__ = ["WebSettings", "create_app"]
