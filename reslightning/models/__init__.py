"""Residual networks and their plain counterparts; needs nothing but torch."""
