"""What the server runs: the page, behind the check of the names it is asked by."""

from __future__ import annotations

from pathlib import Path

import streamlit as st
from starlette.middleware import Middleware

from lib.dashboard.allowed_hosts import OwnNames

app = st.App(Path(__file__).with_name("app.py"), middleware=[Middleware(OwnNames)])
