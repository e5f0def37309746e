"""The runs behind the tables: pure functions from a setting to a row, and the runner that maps them over grids."""
