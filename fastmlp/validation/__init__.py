"""Checks of the caller's arguments, before anything is compiled.

An error names the caller, the expected value, the actual one, and the known names. The caller's
name is the parameter `who` of many functions of the package: what the user called, such as
"MLP.fit", with which errors and warnings begin.
"""
