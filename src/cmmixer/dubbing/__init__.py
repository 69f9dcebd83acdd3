"""A film with another sound: pictures copied packet by packet, sound matched in loudness, faded, in its place.

`stereo` decoded sound on the film's timeline, `loudness` how loud it is, `mixing` fades, ducking and level, `picture` the
packets that are copied, `writing` the new file, `run` the command.
"""

from cmmixer.dubbing.run import DubReport, dub

__all__ = ["DubReport", "dub"]
