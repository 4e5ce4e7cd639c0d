"""A real RTSP server, GStreamer's: plays one pipeline to everybody who comes.

gst_server.py PORT PIPELINE [USER PASSWORD]     port 0: a free one; digest authentication

Prints the port it listens at. Ends when its standard input does: with who started it.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402


def protect(server, factory, user, password):
    auth = GstRtspServer.RTSPAuth()
    auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    token = GstRtspServer.RTSPToken()
    token.set_string(GstRtspServer.RTSP_TOKEN_MEDIA_FACTORY_ROLE, "viewer")
    auth.add_digest(user, password, token)
    server.set_auth(auth)
    allowed = Gst.Structure.new_empty("viewer")
    for permission in (
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_ACCESS,
        GstRtspServer.RTSP_PERM_MEDIA_FACTORY_CONSTRUCT,
    ):
        allowed.set_value(permission, True)
    factory.add_role_from_structure(allowed)


def main(port, pipeline, *credentials):
    Gst.init(None)
    loop = GLib.MainLoop()
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(pipeline)
    if credentials:
        protect(server, factory, *credentials)
    server.get_mount_points().add_factory("/live", factory)
    if not server.attach(None):
        sys.exit(f"can't listen at port {port}")
    print(server.get_bound_port(), flush=True)
    GLib.io_add_watch(
        sys.stdin.fileno(),
        GLib.IOCondition.IN | GLib.IOCondition.HUP | GLib.IOCondition.ERR,
        lambda *_: loop.quit(),
    )
    loop.run()


main(*sys.argv[1:])
