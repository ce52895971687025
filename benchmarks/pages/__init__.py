"""The tables and figures of the pages of results, made from the committed CSV and JSON files alone."""
