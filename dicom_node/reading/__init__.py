"""A study is read and its results are made; and how people see them: pictures, reports, folders."""
