"""Tests that share a cluster: without this file its fixture, of a package, would live
as long as the session, and its threads allocate while other tests count bytes.
"""
