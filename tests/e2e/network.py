"""A network from which no packet leaves this machine, and which records every attempt.

`python network.py FILE` must run in a network namespace of its own (`unshare --map-root-user --net`). It has a loopback
device, and a second one that leads nowhere, through which all other addresses are routed. FILE gets one line of JSON
per packet of TCP or UDP sent to that device, and one per question to a name server on this machine.
"""

import ipaddress
import json
import socket
import struct
import subprocess
import sys

LINKS = (
    "link set lo up",
    "link add out type veth peer name nowhere",
    *(f"link set {name} {state}" for name in ("out", "nowhere") for state in ("arp off", "up")),
    "addr add 192.0.2.1/24 dev out",
    "route add default dev out",
    "-6 addr add 2001:db8::1/64 dev out nodad",
    "-6 route add default dev out",
)
IPV4, IPV6, TCP, UDP, DNS = 0x0800, 0x86DD, 6, 17, 53


def read(kind: int, packet: bytes) -> dict | None:
    """Destination of a packet and the name that it asks for; None if it is neither TCP nor UDP (the kernel's own)."""
    if kind == IPV4:
        protocol, start = packet[9], 4 * (packet[0] & 15)
        address = packet[16:20]
    elif kind == IPV6:
        protocol, start, address = packet[6], 40, packet[24:40]
    else:
        return None
    if protocol not in (TCP, UDP):
        return None
    (port,) = struct.unpack("!H", packet[start + 2 : start + 4])
    name = question(packet[start + 8 :]) if protocol == UDP and port == DNS else None
    return {"to": str(ipaddress.ip_address(address)), "port": port, "name": name}


def question(message: bytes) -> str:
    """The name that a DNS message asks for."""
    labels, place = [], 12
    while place < len(message) and message[place]:
        labels.append(message[place + 1 : place + 1 + message[place]].decode("ascii", "replace"))
        place += 1 + message[place]
    return ".".join(labels)


def main(path: str) -> None:
    """Set the devices up and listen until the process is ended."""
    for link in LINKS:
        subprocess.run(["ip", *link.split()], check=True)
    ear = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))  # every protocol
    with open(path, "a", encoding="utf-8") as file:
        print("listening", flush=True)
        while True:
            packet, (device, kind, direction, *_) = ear.recvfrom(65_535)
            seen = read(kind, packet) if direction == socket.PACKET_OUTGOING else None
            if seen and (device == "out" or (device == "lo" and seen["port"] == DNS)):
                print(json.dumps(seen), file=file, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
