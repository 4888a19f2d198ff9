"""Boxes to numbers: OPE and the toolkits' own measures. Pure functions."""
