"""Drives a minicloud in which instances boot: the whole way of an image, seen from inside of the machines.

usage: boots.py ENDPOINT ACCESS_KEY SECRET_KEY IMAGE FRONTEND_NAMESPACE
"""

import json
import subprocess
import sys
import time
import urllib.request

import boto3
from botocore.config import Config

endpoint, key, secret, image, frontend = sys.argv[1:6]
ec2 = boto3.client("ec2", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret,
                   config=Config(retries={"max_attempts": 0}))


def admin(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(endpoint + "/_minicloud/" + path, data=data, method=method)
    return json.load(urllib.request.urlopen(request))


def inside(instance, script, code=0):
    """Runs a script in an instance."""
    ran = admin("POST", "exec", dict(instance=instance, command=["/bin/sh", "-c", script]))
    assert ran["code"] == code, (script, ran)
    return ran["stdout"].strip()


def until(what, call, want, limit=60):
    end = time.time() + limit
    while time.time() < end:
        got = call()
        if got == want:
            return
        time.sleep(0.05)
    raise AssertionError("%s: %s, not %s" % (what, got, want))


def state(instance):
    return ec2.describe_instances(InstanceIds=[instance])["Reservations"][0]["Instances"][0]


def attachment(volume):
    found = ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"]
    return found[0]["State"] if found else None


def run(image, group, **more):
    """An instance whose boot has ended."""
    made = ec2.run_instances(ImageId=image, InstanceType="m5.large", MinCount=1, MaxCount=1, SecurityGroupIds=[group],
                             MetadataOptions=dict(HttpTokens="required"), Placement=dict(AvailabilityZone="us-east-1a"), **more)
    instance = made["Instances"][0]["InstanceId"]
    until("running", lambda: state(instance)["State"]["Name"], "running")
    until("booted", lambda: inside(instance, "systemctl is-system-running --wait || true") in ("running", "degraded"), True)
    return instance


IMDS = """python3 - <<'EOF' 2>&1
import urllib.request, urllib.error
def ask(path, method='GET', **headers):
    request = urllib.request.Request('http://169.254.169.254/latest/' + path, method=method, headers={k.replace('_', '-'): v for k, v in headers.items()})
    try:
        return urllib.request.urlopen(request, timeout=5).read().decode()
    except urllib.error.HTTPError as e:
        return str(e.code)
print(ask('meta-data/instance-id'))
token = ask('api/token', 'PUT', X_aws_ec2_metadata_token_ttl_seconds='60')
print(ask('meta-data/instance-id', X_aws_ec2_metadata_token=token))
print(ask('user-data', X_aws_ec2_metadata_token=token))
EOF"""
CURL = """curl -s -o /dev/null -w '%{http_code}\\n' http://169.254.169.254/latest/meta-data/instance-id
t=$(curl -s -X PUT -H 'X-aws-ec2-metadata-token-ttl-seconds: 60' http://169.254.169.254/latest/api/token)
for p in meta-data/instance-id user-data; do curl -s -H "X-aws-ec2-metadata-token: $t" http://169.254.169.254/latest/$p; echo; done"""


def reached(address, port, timeout=2):
    """What a frontend across the long way reads from a port, if it is let in."""
    words = ["nsenter", "--net=/run/netns/" + frontend, "python3", "-c",
             "import socket; s = socket.create_connection((%r, %d), %r); print(s.recv(9).decode())" % (address, port, timeout)]
    ran = subprocess.run(words, capture_output=True, text=True)
    return ran.stdout.strip() if ran.returncode == 0 else None


def main():
    began = time.time()

    def lap(what):
        print("%6.2f s  %s" % (time.time() - began, what), flush=True)

    group = ec2.create_security_group(GroupName="boots", Description="of the test")["GroupId"]
    one = run(image, group, UserData="for you")
    lap("booted")
    has_curl = inside(one, "command -v curl >/dev/null && echo yes || echo no") == "yes"
    seen = inside(one, CURL if has_curl else IMDS).splitlines()
    # IMDSv1 is refused, IMDSv2 answers.
    assert seen == ["401", one, "for you"], seen
    lap("IMDSv2")

    volume = ec2.create_volume(AvailabilityZone="us-east-1a", Size=1, VolumeType="gp3")["VolumeId"]
    until("available", lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"], "available")
    ec2.attach_volume(VolumeId=volume, InstanceId=one, Device="/dev/sdf")
    until("attached", lambda: attachment(volume), "attached")
    names = [v for v in admin("GET", "state")["volumes"] if v["id"] == volume][0]["attachment"]["names"]
    device = names[0] if names[0].startswith("/") else "/dev/" + names[0]
    inside(one, "test -b %s && mkfs.ext4 -q -F %s && mkdir -p /tmp/v && mount %s /tmp/v" % (device, device, device))
    inside(one, "echo shipped > /tmp/v/word && sync")
    lap("attached, made and mounted %s" % device)
    ec2.detach_volume(VolumeId=volume)
    until("busy", lambda: attachment(volume), "busy")
    time.sleep(0.3)
    assert attachment(volume) == "busy"
    inside(one, "umount /tmp/v")
    until("detached", lambda: attachment(volume), None)
    inside(one, "test ! -e %s" % device)
    lap("a mounted volume was busy until it was not")

    # Only what the group lets in, and from whom, gets in.
    inside(one, "systemd-run --quiet --unit=greeter bash -c 'exec systemd-socket-activate -a --inetd -l 7000 echo welcome'")
    address = state(one)["PublicIpAddress"]
    assert reached(address, 7000, 1) is None
    rule = dict(IpProtocol="tcp", FromPort=7000, ToPort=7000, IpRanges=[dict(CidrIp="10.77.0.1/32")])
    ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
    until("let in", lambda: reached(address, 7000), "welcome", 10)
    ec2.revoke_security_group_ingress(GroupId=group, IpPermissions=[rule])
    until("shut out", lambda: reached(address, 7000, 1), None, 10)
    lap("the security group filters")

    # What was changed on the root volume is in the AMI that is made of it.
    inside(one, "echo made here > /etc/of-the-first && sync")
    root = state(one)["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]
    ec2.stop_instances(InstanceIds=[one])
    until("stopped", lambda: state(one)["State"]["Name"], "stopped")
    snapshot = ec2.create_snapshot(VolumeId=root)["SnapshotId"]
    until("completed", lambda: ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"], "completed")
    second = ec2.register_image(Name="second", RootDeviceName="/dev/sda1", Architecture="x86_64", VirtualizationType="hvm", EnaSupport=True,
                                BlockDeviceMappings=[dict(DeviceName="/dev/sda1", Ebs=dict(SnapshotId=snapshot))])["ImageId"]
    lap("stopped, snapshot and AMI")
    until("AMI", lambda: ec2.describe_images(ImageIds=[second])["Images"][0]["State"], "available")
    two = run(second, group)
    assert inside(two, "cat /etc/of-the-first") == "made here"
    console = ec2.get_console_output(InstanceId=two)["Output"]
    assert console, "the console is empty"
    lap("the new AMI booted")
    ec2.terminate_instances(InstanceIds=[one, two])
    for i in (one, two):
        until("terminated", lambda: state(i)["State"]["Name"], "terminated")
    left = [v["id"] for v in admin("GET", "state")["volumes"]]
    assert left == [volume], left
    lap("terminated")


main()
