"""The first layer on rows in other forms than a matrix: sparse, and expanded."""
