"""The operator's page: a Streamlit app over a reader of Delta that needs no JVM."""

PORT = 8501
"""Where the page is, if nobody asks for another port."""
