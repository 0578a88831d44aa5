# The way to a Datomic system from another VPC, as AWS CLI lines. Set what is in capitals; run the part you need.
SYSTEM='SYSTEM'
REGION='REGION'
VPC_ID='vpc-…'
SUBNET_IDS='subnet-… subnet-… subnet-…'
APPLICATION_GROUP_ID='sg-…'
SERVICE_NAME='com.amazonaws.vpce.REGION.vpce-svc-…'

# --- By VPC endpoint (releases 397 to 781, or a network load balancer of your own) ---

# 1. A security group that lets the application in on 8182.
GROUP_ID=$(aws ec2 create-security-group --region "$REGION" --vpc-id "$VPC_ID" --group-name "$SYSTEM-datomic-endpoint" \
  --description "Endpoint of the Datomic system $SYSTEM" --query GroupId --output text)
aws ec2 authorize-security-group-ingress --region "$REGION" --group-id "$GROUP_ID" --protocol tcp --port 8182 \
  --source-group "$APPLICATION_GROUP_ID"

# 2. The endpoint, one subnet in each zone where the service is. shellcheck disable=SC2086: several words on purpose.
ENDPOINT_ID=$(aws ec2 create-vpc-endpoint --region "$REGION" --vpc-endpoint-type Interface --vpc-id "$VPC_ID" \
  --service-name "$SERVICE_NAME" --subnet-ids $SUBNET_IDS --security-group-ids "$GROUP_ID" \
  --no-private-dns-enabled --query VpcEndpoint.VpcEndpointId --output text)

# 3. On the service's side: accept it. Until then connecting times out.
aws ec2 accept-vpc-endpoint-connections --region "$REGION" --service-id "${SERVICE_NAME##*.}" \
  --vpc-endpoint-ids "$ENDPOINT_ID"

# 4. Its name, for entryway run --vpce.
ENDPOINT_DNS=$(aws ec2 describe-vpc-endpoints --region "$REGION" --vpc-endpoint-ids "$ENDPOINT_ID" \
  --query 'VpcEndpoints[0].DnsEntries[0].DnsName' --output text)
echo "entryway run --vpce $ENDPOINT_DNS"

# 5. A permanent name in a private hosted zone of yours, since the endpoint's own changes when it is made anew.
#    entryway takes it as --endpoint NAME:8182; only the endpoint's own name has its zones derived.
PRIVATE_ZONE_ID='Z…'
PERMANENT_NAME='datomic.example.internal'
aws route53 change-resource-record-sets --hosted-zone-id "$PRIVATE_ZONE_ID" --change-batch "{\"Changes\":[{
  \"Action\":\"UPSERT\",\"ResourceRecordSet\":{\"Name\":\"$PERMANENT_NAME\",\"Type\":\"CNAME\",\"TTL\":60,
  \"ResourceRecords\":[{\"Value\":\"$ENDPOINT_DNS\"}]}}]}"

# --- By VPC peering (all releases; the documented way from 884 on) ---

# 1. The hosted zone of the system, associated with the application's VPC (both lines when the accounts differ: the
#    first with the account of the Datomic system, the second with the application's).
HOSTED_ZONE_ID=$(aws route53 list-hosted-zones-by-name --dns-name "$SYSTEM.$REGION.datomic.net" \
  --query 'HostedZones[0].Id' --output text)
aws route53 create-vpc-association-authorization --hosted-zone-id "$HOSTED_ZONE_ID" \
  --vpc "VPCRegion=$REGION,VPCId=$VPC_ID"
aws route53 associate-vpc-with-hosted-zone --hosted-zone-id "$HOSTED_ZONE_ID" --vpc "VPCRegion=$REGION,VPCId=$VPC_ID"

# 2. Names resolve only with both of these.
aws ec2 modify-vpc-attribute --region "$REGION" --vpc-id "$VPC_ID" --enable-dns-support
aws ec2 modify-vpc-attribute --region "$REGION" --vpc-id "$VPC_ID" --enable-dns-hostnames

# 3. The system's nodes let the application in on 8182.
NODES_GROUP_ID=$(aws ec2 describe-security-groups --region "$REGION" --filters "Name=tag:Name,Values=$SYSTEM-nodes" \
  --query 'SecurityGroups[0].GroupId' --output text)
aws ec2 authorize-security-group-ingress --region "$REGION" --group-id "$NODES_GROUP_ID" --protocol tcp --port 8182 \
  --source-group "$APPLICATION_GROUP_ID"

echo "entryway run --peering --system $SYSTEM --region $REGION"
