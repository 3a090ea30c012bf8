#!/usr/bin/python3
"""An IP camera: an RTSP server whose pictures and sound a pipeline of gst-launch makes.

ip-camera.py PORT PIPELINE [USER PASSWORD [CERTIFICATE]]

Its streams are the payloaders that the pipeline names pay0, pay1 and so on, at the path /live. Port 0 is any. Once it
listens it prints its port on a line. With a certificate and its key in a PEM file it speaks TLS.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtspServer

port, pipeline, *login = sys.argv[1:]
Gst.init(None)
factory = GstRtspServer.RTSPMediaFactory()
factory.set_launch(pipeline)
server = GstRtspServer.RTSPServer()
server.set_service(port)
if login:
    user, password, *certificate = login
    permissions = GstRtspServer.RTSPPermissions()
    for what in ("media.factory.access", "media.factory.construct"):
        permissions.add_permission_for_role(user, what, True)
    factory.set_permissions(permissions)
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", user)
    auth = GstRtspServer.RTSPAuth()
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    if certificate:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_file(certificate[0]))
    server.set_auth(auth)
server.get_mount_points().add_factory("/live", factory)
if not server.attach(None):
    sys.exit(f"port {port} is not free")
print(server.get_bound_port(), flush=True)
GLib.MainLoop().run()
