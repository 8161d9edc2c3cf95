"""Drives a minicloud in which nothing boots with Amazon's own client, and holds every answer against Amazon's own model.

usage: flow.py ENDPOINT ACCESS_KEY SECRET_KEY
"""

import base64
import hashlib
import json
import sys
import time
import urllib.error
import urllib.request
import xml.etree.ElementTree as ET
import zlib

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError, EndpointConnectionError, ConnectionClosedError

endpoint, key, secret = sys.argv[1:4]
MIB = 1 << 20


def client(service, retries=0, **more):
    """A client of one service."""
    config = Config(retries={"max_attempts": retries}, s3={"addressing_style": "path"}, **more)
    made = boto3.client(
        service,
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=key,
        aws_secret_access_key=secret,
        config=config,
    )
    if service == "ec2":
        made.meta.events.register("before-parse.ec2", check_answer)
    return made


seen = set()


def check_answer(operation_model, response_dict, **_):
    """Every element that comes is one that the model has."""
    if response_dict["status_code"] >= 300:
        return
    root = ET.fromstring(response_dict["body"])
    seen.add(operation_model.name)
    assert root.tag == "{http://ec2.amazonaws.com/doc/2016-11-15/}%sResponse" % operation_model.name, root.tag
    shape = operation_model.output_shape
    for child in root:
        if local(child) != "requestId" and not (shape is None and local(child) == "return"):
            assert shape is not None, (operation_model.name, child.tag)
            member(shape, child, operation_model.name)


def local(element):
    return element.tag.split("}")[1]


def member(shape, element, where):
    name = local(element)
    known = {m.serialization.get("name", k): m for k, m in shape.members.items()}
    # Actions without an answer of their own say `return`, also where the model has forgotten it.
    if name == "return" and name not in known:
        return
    assert name in known, "%s: the model has no <%s>" % (where, name)
    check(known[name], element, "%s.%s" % (where, name))


def check(shape, element, where):
    if shape.type_name == "structure":
        for child in element:
            member(shape, child, where)
    elif shape.type_name == "list":
        for child in element:
            assert local(child) == shape.member.serialization.get("name", "item"), (where, child.tag)
            check(shape.member, child, where)
    else:
        assert not len(element), where
        text = element.text or ""
        if shape.type_name in ("integer", "long"):
            int(text)
        elif shape.type_name == "boolean":
            assert text in ("true", "false"), (where, text)
        elif getattr(shape, "enum", None):
            assert text in shape.enum, (where, text, shape.enum)


def fails(code, call, **parameters):
    """A call is refused with a code."""
    try:
        answer = call(**parameters)
    except ClientError as e:
        assert e.response["Error"]["Code"] == code, (code, e)
        return e.response
    raise AssertionError("%s went well: %s" % (call, answer))


def until(what, call, want, limit=10):
    end = time.time() + limit
    while time.time() < end:
        got = call()
        if got == want:
            return
        time.sleep(0.02)
    raise AssertionError("%s: %s, not %s" % (what, got, want))


def admin(method, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(endpoint + "/_minicloud/" + path, data=data, method=method)
    return json.load(urllib.request.urlopen(request))


ec2, s3, ebs, sts = client("ec2"), client("s3"), client("ebs"), client("sts")


def identity():
    who = sts.get_caller_identity()
    assert who["Account"] == "123456789012" and who["Arn"].endswith(":user/admin"), who
    stranger = boto3.client("sts", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="AKIANOBODY", aws_secret_access_key="x")
    fails("InvalidClientTokenId", stranger.get_caller_identity)
    liar = boto3.client("ec2", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key="x")
    assert fails("AuthFailure", liar.describe_images)["ResponseMetadata"]["HTTPStatusCode"] == 401


def provision():
    """The way of an image: volume, snapshot, AMI, instances."""
    zone = ec2.describe_availability_zones()["AvailabilityZones"][0]["ZoneName"]
    assert ec2.describe_vpcs()["Vpcs"][0]["IsDefault"] and len(ec2.describe_subnets()["Subnets"]) == 3
    assert ec2.describe_regions()["Regions"][0]["RegionName"] == "us-east-1"
    types = ec2.describe_instance_types(Filters=[dict(Name="processor-info.supported-architecture", Values=["arm64"])])
    assert all(t["ProcessorInfo"]["SupportedArchitectures"] == ["arm64"] for t in types["InstanceTypes"]) and types["InstanceTypes"]
    ec2.describe_instance_type_offerings(LocationType="availability-zone")
    tags = [dict(ResourceType="volume", Tags=[dict(Key="owner", Value="flow")])]
    volume = ec2.create_volume(AvailabilityZone=zone, Size=1, VolumeType="gp3", TagSpecifications=tags)["VolumeId"]
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig=dict(Delay=1))
    snapshot = ec2.create_snapshot(VolumeId=volume, Description="of the flow")["SnapshotId"]
    mapping = [dict(DeviceName="/dev/sda1", Ebs=dict(SnapshotId=snapshot, DeleteOnTermination=True, VolumeType="gp3"))]
    register = dict(Name="flow", RootDeviceName="/dev/sda1", Architecture="x86_64", VirtualizationType="hvm", EnaSupport=True, BlockDeviceMappings=mapping, BootMode="uefi-preferred", ImdsSupport="v2.0")
    fails("IncorrectState", ec2.register_image, **register)
    until("snapshot", lambda: ec2.describe_snapshots(SnapshotIds=[snapshot])["Snapshots"][0]["State"], "completed")
    image = ec2.register_image(**register)["ImageId"]
    fails("InvalidAMIName.Duplicate", ec2.register_image, **register)
    fails("InvalidSnapshot.InUse", ec2.delete_snapshot, SnapshotId=snapshot)
    assert ec2.describe_images(Owners=["self"], Filters=[dict(Name="name", Values=["fl*"])])["Images"][0]["ImageId"] == image

    group = ec2.create_security_group(GroupName="flow", Description="receiver")["GroupId"]
    ports = dict(IpProtocol="udp", FromPort=9000, ToPort=9001, IpRanges=[dict(CidrIp="198.51.100.7/32", Description="frontend")])
    rule = ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[ports])["SecurityGroupRules"][0]
    assert rule["CidrIpv4"] == "198.51.100.7/32" and rule["FromPort"] == 9000, rule
    fails("InvalidPermission.Duplicate", ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[ports])
    fails("InvalidGroup.Duplicate", ec2.create_security_group, GroupName="flow", Description="again")
    assert ec2.describe_security_groups(GroupIds=[group])["SecurityGroups"][0]["IpPermissions"][0]["IpRanges"][0]["Description"] == "frontend"

    run = dict(ImageId=image, InstanceType="m5.large", MinCount=1, MaxCount=2, ClientToken="flow-1", UserData="#!/bin/sh\n", SecurityGroupIds=[group],
               MetadataOptions=dict(HttpTokens="required", HttpPutResponseHopLimit=2, HttpEndpoint="enabled"), Placement=dict(AvailabilityZone=zone),
               TagSpecifications=[dict(ResourceType="instance", Tags=[dict(Key="owner", Value="flow")])])
    fails("DryRunOperation", ec2.run_instances, DryRun=True, **run)
    made = ec2.run_instances(**run)["Instances"]
    assert made[0]["State"]["Name"] == "pending" and made[0]["Architecture"] == "x86_64", made[0]
    again = ec2.run_instances(**run)["Instances"]
    assert [i["InstanceId"] for i in again] == [i["InstanceId"] for i in made]
    fails("IdempotentParameterMismatch", ec2.run_instances, **dict(run, MaxCount=3))
    one, two = [i["InstanceId"] for i in made]
    waiter = ec2.get_waiter("instance_running")
    waiter.wait(InstanceIds=[one, two], WaiterConfig=dict(Delay=1))
    until("status", lambda: ec2.describe_instance_status(InstanceIds=[one])["InstanceStatuses"][0]["InstanceStatus"]["Status"], "ok")
    data = ec2.describe_instance_attribute(InstanceId=one, Attribute="userData")["UserData"]["Value"]
    assert base64.b64decode(data) == b"#!/bin/sh\n"
    ec2.get_console_output(InstanceId=one)
    attached = ec2.attach_volume(VolumeId=volume, InstanceId=one, Device="/dev/sdf")
    assert attached["State"] == "attaching", attached
    fails("VolumeInUse", ec2.attach_volume, VolumeId=volume, InstanceId=two, Device="/dev/sdf")
    fails("DependencyViolation", ec2.delete_security_group, GroupId=group)
    until("attached", lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"][0]["State"], "attached")
    ec2.detach_volume(VolumeId=volume)
    ec2.get_waiter("volume_available").wait(VolumeIds=[volume], WaiterConfig=dict(Delay=1))
    ec2.stop_instances(InstanceIds=[two])
    ec2.get_waiter("instance_stopped").wait(InstanceIds=[two], WaiterConfig=dict(Delay=1))
    ec2.start_instances(InstanceIds=[two])
    waiter.wait(InstanceIds=[two], WaiterConfig=dict(Delay=1))
    ec2.reboot_instances(InstanceIds=[two])
    ec2.create_tags(Resources=[one, image, group], Tags=[dict(Key="more", Value="of it")])
    assert len(ec2.describe_tags(Filters=[dict(Name="key", Values=["more"])])["Tags"]) == 3
    ec2.delete_tags(Resources=[group], Tags=[dict(Key="more")])
    mine = ec2.describe_instances(Filters=[dict(Name="tag:owner", Values=["flow"])])
    assert sum(len(r["Instances"]) for r in mine["Reservations"]) == 2

    data = dict(ImageId=image, InstanceType="t3.micro", UserData="aGk=", MetadataOptions=dict(HttpTokens="required"), SecurityGroupIds=[group],
                BlockDeviceMappings=[dict(DeviceName="/dev/sda1", Ebs=dict(VolumeSize=2))], TagSpecifications=tags)
    ec2.create_launch_template(LaunchTemplateName="flow", LaunchTemplateData=data)
    assert ec2.describe_launch_templates()["LaunchTemplates"][0]["LaunchTemplateName"] == "flow"
    shown = ec2.describe_launch_template_versions(LaunchTemplateName="flow")["LaunchTemplateVersions"][0]["LaunchTemplateData"]
    assert shown["MetadataOptions"]["HttpTokens"] == "required" and shown["SecurityGroupIds"] == [group], shown
    spot = dict(MarketType="spot", SpotOptions=dict(MaxPrice="0.01"))
    three = ec2.run_instances(LaunchTemplate=dict(LaunchTemplateName="flow"), MinCount=1, MaxCount=1, InstanceMarketOptions=spot)["Instances"][0]
    assert three["InstanceLifecycle"] == "spot", three
    waiter.wait(InstanceIds=[three["InstanceId"]], WaiterConfig=dict(Delay=1))
    everyone = [one, two, three["InstanceId"]]
    pages = list(ec2.get_paginator("describe_instances").paginate(PaginationConfig=dict(PageSize=5)))
    assert len(pages) == 1
    ec2.terminate_instances(InstanceIds=everyone)
    ec2.get_waiter("instance_terminated").wait(InstanceIds=everyone, WaiterConfig=dict(Delay=1))
    ec2.delete_launch_template(LaunchTemplateName="flow")
    ec2.revoke_security_group_ingress(GroupId=group, SecurityGroupRuleIds=[rule["SecurityGroupRuleId"]])
    ec2.delete_security_group(GroupId=group)
    ec2.deregister_image(ImageId=image)
    ec2.delete_snapshot(SnapshotId=snapshot)
    ec2.delete_volume(VolumeId=volume)
    assert fails("UnknownParameter", ec2.create_volume, AvailabilityZone=zone, Size=1, OutpostArn="arn:aws:outposts:x:y:z")


def pages():
    """Long lists come in pages."""
    made = [ec2.create_volume(AvailabilityZone="us-east-1b", Size=1)["VolumeId"] for _ in range(12)]
    got = list(ec2.get_paginator("describe_volumes").paginate(PaginationConfig=dict(PageSize=5)))
    assert [len(p["Volumes"]) for p in got] == [5, 5, 2], [len(p["Volumes"]) for p in got]
    assert sorted(v["VolumeId"] for p in got for v in p["Volumes"]) == sorted(made)
    until("made", lambda: {v["State"] for v in ec2.describe_volumes()["Volumes"]}, {"available"})
    for v in made:
        ec2.delete_volume(VolumeId=v)


def faults():
    """What goes wrong on purpose, and what a caller can make of it."""
    admin("POST", "faults", dict(action="CreateVolume", code="RequestLimitExceeded", count=2))
    patient = client("ec2", retries=4)
    volume = patient.create_volume(AvailabilityZone="us-east-1a", Size=1)["VolumeId"]
    assert len(admin("GET", "state")["volumes"]) == 1
    until("made", lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"], "available")
    ec2.delete_volume(VolumeId=volume)
    # The connection is cut when it is done: the token makes one thing of two calls.
    admin("POST", "faults", dict(action="CreateVolume", drop="after", count=1))
    volume = patient.create_volume(AvailabilityZone="us-east-1a", Size=1, ClientToken="cut")["VolumeId"]
    assert len(admin("GET", "state")["volumes"]) == 1
    admin("POST", "faults", dict(action="DescribeVolumes", drop="before", count=1))
    try:
        ec2.describe_volumes()
        raise AssertionError("it was not cut")
    except (EndpointConnectionError, ConnectionClosedError):
        pass
    calls = admin("GET", "calls")["calls"]
    assert [c["status"] for c in calls if c.get("fault")] == [503, 503, 0, 0], calls[-9:]
    until("made", lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"], "available")
    ec2.delete_volume(VolumeId=volume)


def policy():
    """A key that may do little."""
    allowed = dict(Version="2012-10-17", Statement=[dict(Effect="Allow", Action=["ec2:Describe*", "s3:GetObject"], Resource="*")])
    admin("POST", "keys", dict(id="AKIALITTLE", secret="s", user="little", policy=allowed))
    little = dict(endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="AKIALITTLE", aws_secret_access_key="s")
    boto3.client("ec2", **little).describe_volumes()
    answer = fails("UnauthorizedOperation", boto3.client("ec2", **little).create_volume, AvailabilityZone="us-east-1a", Size=1)
    assert "ec2:CreateVolume" in answer["Error"]["Message"] and "Encoded authorization failure message" in answer["Error"]["Message"]
    fails("AccessDenied", boto3.client("s3", **little).list_buckets)
    fails("AccessDeniedException", boto3.client("ebs", **little).start_snapshot, VolumeSize=1)
    last = admin("GET", "calls")["calls"][-1]
    assert (last["user"], last["code"], last["permissions"]) == ("little", "AccessDeniedException", ["ebs:StartSnapshot"]), last


def objects():
    """S3."""
    s3.create_bucket(Bucket="flow")
    fails("BucketAlreadyOwnedByYou", s3.create_bucket, Bucket="flow")
    fails("NoSuchBucket", s3.put_object, Bucket="none", Key="k", Body=b"")
    fails("NoSuchKey", s3.get_object, Bucket="flow", Key="none")
    body = bytes(range(256)) * 4096
    for more in (dict(), dict(ChecksumAlgorithm="SHA256"), dict(ChecksumAlgorithm="CRC32C") if has_crt() else dict(ChecksumAlgorithm="SHA1")):
        put = s3.put_object(Bucket="flow", Key="a b/ü+%", Body=body, Metadata=dict(who="me"), ContentType="x/y", **more)
        assert put["ETag"] == '"%s"' % hashlib.md5(body).hexdigest()
        got = s3.get_object(Bucket="flow", Key="a b/ü+%", ChecksumMode="ENABLED")
        assert got["Body"].read() == body and got["Metadata"] == dict(who="me") and got["ContentType"] == "x/y"
    assert s3.get_object(Bucket="flow", Key="a b/ü+%", Range="bytes=10-19")["Body"].read() == body[10:20]
    fails("InvalidRange", s3.get_object, Bucket="flow", Key="a b/ü+%", Range="bytes=9999999-")
    head = s3.head_object(Bucket="flow", Key="a b/ü+%")
    assert head["ContentLength"] == len(body)
    fails("404", s3.head_object, Bucket="flow", Key="none")
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    fails("BadDigest", s3.put_object, Bucket="flow", Key="bad", Body=b"abc", ChecksumSHA256=wrong)
    fails("PreconditionFailed", s3.put_object, Bucket="flow", Key="a b/ü+%", Body=b"", IfNoneMatch="*")

    upload = s3.create_multipart_upload(Bucket="flow", Key="big", ChecksumAlgorithm="CRC32")["UploadId"]
    parts, halves = [], [b"\1" * (5 * MIB), b"\2" * 1000]
    for n, half in enumerate(halves, 1):
        part = s3.upload_part(Bucket="flow", Key="big", UploadId=upload, PartNumber=n, Body=half, ChecksumAlgorithm="CRC32")
        assert part["ChecksumCRC32"] == base64.b64encode(zlib.crc32(half).to_bytes(4, "big")).decode(), part
        parts.append(dict(PartNumber=n, ETag=part["ETag"], ChecksumCRC32=part["ChecksumCRC32"]))
    assert len(s3.list_parts(Bucket="flow", Key="big", UploadId=upload)["Parts"]) == 2
    fails("InvalidPartOrder", s3.complete_multipart_upload, Bucket="flow", Key="big", UploadId=upload, MultipartUpload=dict(Parts=parts[::-1]))
    done = s3.complete_multipart_upload(Bucket="flow", Key="big", UploadId=upload, MultipartUpload=dict(Parts=parts))
    assert done["ETag"].endswith('-2"') and done["ChecksumCRC32"].endswith("-2"), done
    assert s3.get_object(Bucket="flow", Key="big")["Body"].read() == b"".join(halves)
    upload = s3.create_multipart_upload(Bucket="flow", Key="small")["UploadId"]
    parts = [dict(PartNumber=n, ETag=s3.upload_part(Bucket="flow", Key="small", UploadId=upload, PartNumber=n, Body=b"x")["ETag"]) for n in (1, 2)]
    fails("EntityTooSmall", s3.complete_multipart_upload, Bucket="flow", Key="small", UploadId=upload, MultipartUpload=dict(Parts=parts))
    assert s3.list_multipart_uploads(Bucket="flow")["Uploads"][0]["UploadId"] == upload
    s3.abort_multipart_upload(Bucket="flow", Key="small", UploadId=upload)
    fails("NoSuchUpload", s3.list_parts, Bucket="flow", Key="small", UploadId=upload)

    for n in range(7):
        s3.put_object(Bucket="flow", Key="list/%d/x" % n, Body=b"")
    listed = list(s3.get_paginator("list_objects_v2").paginate(Bucket="flow", Prefix="list/", PaginationConfig=dict(PageSize=3)))
    assert [len(p["Contents"]) for p in listed] == [3, 3, 1]
    folders = s3.list_objects_v2(Bucket="flow", Delimiter="/")
    assert [p["Prefix"] for p in folders["CommonPrefixes"]] == ["a b/", "list/"], folders

    signed = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret,
                          config=Config(signature_version="s3v4", s3={"addressing_style": "path"}))
    url = signed.generate_presigned_url("get_object", Params=dict(Bucket="flow", Key="big"), ExpiresIn=60)
    assert len(urllib.request.urlopen(url).read()) == 5 * MIB + 1000
    for change, code in ((url[:-4] + "dead", 403), (url.replace("/big", "/list/1/x"), 403)):
        try:
            urllib.request.urlopen(change)
            raise AssertionError("a changed URL was served")
        except urllib.error.HTTPError as e:
            assert e.code == code, e
    url = signed.generate_presigned_url("put_object", Params=dict(Bucket="flow", Key="put"), ExpiresIn=60)
    urllib.request.urlopen(urllib.request.Request(url, data=b"by url", method="PUT"))
    assert s3.get_object(Bucket="flow", Key="put")["Body"].read() == b"by url"

    image = b"disk" + bytes(3 * MIB)
    s3.put_object(Bucket="flow", Key="disk.raw", Body=image)
    task = ec2.import_snapshot(DiskContainer=dict(Format="RAW", UserBucket=dict(S3Bucket="flow", S3Key="disk.raw")))["ImportTaskId"]
    detail = lambda: ec2.describe_import_snapshot_tasks(ImportTaskIds=[task])["ImportSnapshotTasks"][0]["SnapshotTaskDetail"]
    until("import", lambda: detail()["Status"], "completed")
    ec2.delete_snapshot(SnapshotId=detail()["SnapshotId"])

    fails("BucketNotEmpty", s3.delete_bucket, Bucket="flow")
    keys = [dict(Key=o["Key"]) for o in s3.list_objects_v2(Bucket="flow")["Contents"]]
    assert len(s3.delete_objects(Bucket="flow", Delete=dict(Objects=keys))["Deleted"]) == len(keys)
    s3.delete_bucket(Bucket="flow")


def has_crt():
    try:
        import awscrt  # noqa: F401
    except ImportError:
        return False
    return True


def blocks():
    """EBS direct."""
    def put(snapshot, index, data, sum_of=None):
        checksum = base64.b64encode(hashlib.sha256(sum_of or data).digest()).decode()
        return ebs.put_snapshot_block(SnapshotId=snapshot, BlockIndex=index, BlockData=data, DataLength=len(data), Checksum=checksum, ChecksumAlgorithm="SHA256")

    block = [bytes([n]) * (512 * 1024) for n in range(4)]
    start = dict(VolumeSize=1, Description="by blocks", ClientToken="b1", Tags=[dict(Key="owner", Value="flow")], Timeout=10)
    first = ebs.start_snapshot(**start)
    assert first["Status"] == "pending" and first["BlockSize"] == 512 * 1024, first
    first = first["SnapshotId"]
    assert ebs.start_snapshot(**start)["SnapshotId"] == first
    fails("ConflictException", ebs.start_snapshot, **dict(start, VolumeSize=2))
    put(first, 0, block[1])
    put(first, 2047, block[2])
    assert fails("ValidationException", put, snapshot=first, index=1, data=block[1], sum_of=b"other")["Reason"] == "INVALID_BLOCK"
    fails("ValidationException", put, snapshot=first, index=2048, data=block[1])
    fails("ValidationException", ebs.complete_snapshot, SnapshotId=first, ChangedBlocksCount=3)
    total = hashlib.sha256(b"".join(hashlib.sha256(b).digest() for b in (block[1], block[2]))).digest()
    ebs.complete_snapshot(SnapshotId=first, ChangedBlocksCount=2, Checksum=base64.b64encode(total).decode(), ChecksumAlgorithm="SHA256", ChecksumAggregationMethod="LINEAR")
    state = lambda s: ec2.describe_snapshots(SnapshotIds=[s])["Snapshots"][0]["State"]
    until("completed", lambda: state(first), "completed")
    fails("ValidationException", put, snapshot=first, index=1, data=block[1])
    listed = ebs.list_snapshot_blocks(SnapshotId=first)
    assert [b["BlockIndex"] for b in listed["Blocks"]] == [0, 2047], listed
    got = ebs.get_snapshot_block(SnapshotId=first, BlockIndex=2047, BlockToken=listed["Blocks"][1]["BlockToken"])
    data = got["BlockData"].read()
    assert data == block[2] and got["Checksum"] == base64.b64encode(hashlib.sha256(data).digest()).decode()
    fails("ValidationException", ebs.get_snapshot_block, SnapshotId=first, BlockIndex=0, BlockToken=listed["Blocks"][1]["BlockToken"])

    second = ebs.start_snapshot(VolumeSize=1, ParentSnapshotId=first)["SnapshotId"]
    put(second, 0, block[1])
    put(second, 5, block[3])
    ebs.complete_snapshot(SnapshotId=second, ChangedBlocksCount=2)
    until("completed", lambda: state(second), "completed")
    changed = ebs.list_changed_blocks(FirstSnapshotId=first, SecondSnapshotId=second)["ChangedBlocks"]
    # What was written again as it was is no change.
    assert [c["BlockIndex"] for c in changed] == [5] and "FirstBlockToken" not in changed[0], changed
    assert len(ebs.list_snapshot_blocks(SnapshotId=second)["Blocks"]) == 3
    fails("ResourceNotFoundException", ebs.list_snapshot_blocks, SnapshotId="snap-0dead")

    # The snapshot is one like any other: a volume of it, and blocks of a snapshot of that.
    volume = ec2.create_volume(AvailabilityZone="us-east-1a", SnapshotId=second)["VolumeId"]
    until("volume", lambda: ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["State"], "available")
    third = ec2.create_snapshot(VolumeId=volume)["SnapshotId"]
    until("completed", lambda: state(third), "completed")
    assert [b["BlockIndex"] for b in ebs.list_snapshot_blocks(SnapshotId=third)["Blocks"]] == [0, 5, 2047]
    ec2.delete_volume(VolumeId=volume)
    for s in (first, second, third):
        ec2.delete_snapshot(SnapshotId=s)


def nothing_left():
    state = admin("GET", "state")
    assert not state["volumes"] and not state["snapshots"] and not state["images"] and not state["buckets"], state
    bill = admin("GET", "bill")
    assert bill["items"] and all(i["end"] for i in bill["items"]), [i for i in bill["items"] if not i["end"]]
    assert bill["requests"]["ebs:PutSnapshotBlock"] >= 4 and bill["bytes"]["s3 in internet"] > 5 * MIB, bill


for part in (identity, provision, pages, faults, policy, objects, blocks, nothing_left):
    began = time.time()
    part()
    print("%-14s %5.2f s" % (part.__name__, time.time() - began), flush=True)
print("%d actions of EC2 held against the model: %s" % (len(seen), " ".join(sorted(seen))))
