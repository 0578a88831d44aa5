# From a VPC of yours to a Datomic system's endpoint service: an interface endpoint, open on port 8182 to the application.
# Datomic Cloud 397 to 781 has such a service on its own load balancer; from 884 on, publish a network load balancer of
# your own in front of Datomic's. After creation the connection must be accepted on the service's side.

variable "system" {
  description = "The Datomic system"
  type        = string
  default     = "SYSTEM"
}

variable "vpc_id" {
  description = "The application's VPC"
  type        = string
}

variable "subnet_ids" {
  description = "One subnet in each zone where the endpoint service is, up to three"
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 1 && length(var.subnet_ids) <= 3
    error_message = "Give one to three subnets, each in a zone of its own."
  }
}

variable "service_name" {
  description = "The endpoint service, com.amazonaws.vpce.REGION.vpce-svc-..."
  type        = string
}

variable "application_group_id" {
  description = "The application's security group"
  type        = string
}

resource "aws_security_group" "datomic_endpoint" {
  name        = "${var.system}-datomic-endpoint"
  description = "Endpoint of the Datomic system ${var.system}"
  vpc_id      = var.vpc_id
}

resource "aws_vpc_security_group_ingress_rule" "datomic_clients" {
  security_group_id            = aws_security_group.datomic_endpoint.id
  referenced_security_group_id = var.application_group_id
  description                  = "Datomic clients"
  ip_protocol                  = "tcp"
  from_port                    = 8182
  to_port                      = 8182
}

resource "aws_vpc_endpoint" "datomic" {
  vpc_endpoint_type   = "Interface"
  service_name        = var.service_name
  vpc_id              = var.vpc_id
  subnet_ids          = var.subnet_ids
  security_group_ids  = [aws_security_group.datomic_endpoint.id]
  private_dns_enabled = false

  tags = {
    Name = "${var.system}-datomic"
  }
}

output "dns_name" {
  description = "For entryway run --vpce"
  value       = aws_vpc_endpoint.datomic.dns_entry[0].dns_name
}
