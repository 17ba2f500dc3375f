"""Pedestrians that the project draws: people, cameras and crops that exist nowhere, for a start without data.

Everything here is numpy and Pillow; the pixels before JPEG need numpy alone.  All randomness comes from
`Dice`, keyed by what is drawn, so a crop never depends on which crops were drawn before it.
"""
