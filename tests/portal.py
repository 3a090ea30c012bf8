#!/usr/bin/env python3
"""A desktop's portal for screens on the session bus: shows a node of PipeWire that is given, as far as its user lets it.

    tests/portal.py NODE

Each line on standard input is what the user answers from then on: `allow`, `refuse`, or `stop`, which closes what is
shown. Each call is told in a line of standard output, and `ready` once it can be called.
"""

import os
import socket
import sys

from gi.repository import Gio, GLib

DESKTOP = "/org/freedesktop/portal/desktop"
INTERFACES = Gio.DBusNodeInfo.new_for_xml("""
<node>
  <interface name="org.freedesktop.portal.ScreenCast">
    <method name="CreateSession"><arg type="a{sv}" direction="in"/><arg type="o" direction="out"/></method>
    <method name="SelectSources">
      <arg type="o" direction="in"/><arg type="a{sv}" direction="in"/><arg type="o" direction="out"/>
    </method>
    <method name="Start">
      <arg type="o" direction="in"/><arg type="s" direction="in"/><arg type="a{sv}" direction="in"/>
      <arg type="o" direction="out"/>
    </method>
    <method name="OpenPipeWireRemote">
      <arg type="o" direction="in"/><arg type="a{sv}" direction="in"/><arg type="h" direction="out"/>
    </method>
    <property name="version" type="u" access="read"/>
    <property name="AvailableSourceTypes" type="u" access="read"/>
    <property name="AvailableCursorModes" type="u" access="read"/>
  </interface>
  <interface name="org.freedesktop.portal.Request">
    <method name="Close"/>
    <signal name="Response"><arg type="u"/><arg type="a{sv}"/></signal>
  </interface>
  <interface name="org.freedesktop.portal.Session">
    <method name="Close"/>
    <signal name="Closed"><arg type="a{sv}"/></signal>
    <property name="version" type="u" access="read"/>
  </interface>
</node>
""")
PROPERTIES = {"version": 4, "AvailableSourceTypes": 3, "AvailableCursorModes": 7}


def say(text):
    print(text, flush=True)


class Portal:
    def __init__(self, bus, node):
        self.bus = bus
        self.node = node
        self.allows = True
        self.sessions = []
        self.tokens = 0
        self.serve(DESKTOP, "ScreenCast")

    def serve(self, path, interface):
        info = INTERFACES.lookup_interface(f"org.freedesktop.portal.{interface}")
        self.bus.register_object(path, info, self.called, lambda *about: GLib.Variant("u", PROPERTIES[about[4]]), None)

    def called(self, _bus, sender, path, _interface, method, parameters, invocation):
        values = parameters.unpack()
        if method == "Close":
            say(f"close {path}")
            invocation.return_value(None)
            return
        if method == "OpenPipeWireRemote":
            remote = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            remote.connect(os.path.join(os.environ["XDG_RUNTIME_DIR"], "pipewire-0"))
            files = Gio.UnixFDList.new_from_array([remote.detach()])
            say("remote")
            invocation.return_value_with_unix_fd_list(GLib.Variant("(h)", (0,)), files)
            return
        options = values[-1]
        of = sender[1:].replace(".", "_")
        request = f"{DESKTOP}/request/{of}/{options['handle_token']}"
        self.serve(request, "Request")
        code, results = 0, {}
        if method == "CreateSession":
            session = f"{DESKTOP}/session/{of}/{options['session_handle_token']}"
            self.serve(session, "Session")
            self.sessions.append(session)
            results = {"session_handle": GLib.Variant("s", session)}
        elif method == "SelectSources":
            say(f"select token={options.get('restore_token', 'none')} persist={options.get('persist_mode')} "
                f"cursor={options.get('cursor_mode')}")
        elif not self.allows:
            say("refused")
            code = 1
        else:
            self.tokens += 1
            say(f"start token-{self.tokens}")
            stream = (self.node, {"size": GLib.Variant("(ii)", (320, 240))})
            results = {
                "streams": GLib.Variant("a(ua{sv})", [stream]),
                "restore_token": GLib.Variant("s", f"token-{self.tokens}"),
            }
        invocation.return_value(GLib.Variant("(o)", (request,)))
        answer = GLib.Variant("(ua{sv})", (code, results))
        GLib.idle_add(lambda: self.emit(request, "Request", "Response", answer))

    def emit(self, path, interface, signal, values):
        self.bus.emit_signal(None, path, f"org.freedesktop.portal.{interface}", signal, values)
        return False

    def answered(self, channel, _condition):
        word = channel.readline().strip()
        if word == "stop":
            self.emit(self.sessions[-1], "Session", "Closed", GLib.Variant("(a{sv})", ({},)))
        else:
            self.allows = word == "allow"
        say(f"user: {word}")
        return bool(word)


def main():
    bus = Gio.bus_get_sync(Gio.BusType.SESSION, None)
    portal = Portal(bus, int(sys.argv[1]))
    name = "org.freedesktop.portal.Desktop"
    Gio.bus_own_name_on_connection(bus, name, Gio.BusNameOwnerFlags.NONE, lambda *_: say("ready"), None)
    GLib.io_add_watch(GLib.IOChannel.unix_new(0), GLib.IO_IN, portal.answered)
    GLib.MainLoop().run()


if __name__ == "__main__":
    main()
