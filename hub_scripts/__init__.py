"""The commands behind `coma`: one small file per command."""
