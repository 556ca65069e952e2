// The devices of the program whose compute device is the pretended one, in the place of src/cli/devices.cpp.
#include "cli/devices.hpp"

#include "pretend/pretend_device.hpp"

namespace tessera::cli {

Devices::Devices(Session& session, const std::string& precision, bool check_schedule)
    : precision_(precision.empty() ? "fp32" : precision) {
  pretend::register_device();
  transports_ = std::make_unique<comm::Transports>(
      session.mpi(), comm::TransportOptions{.device = "cpu", .check_schedule = check_schedule});
  device_ = pretend::device();
}

void Devices::watch(Session&, double) {}

void Devices::close() {
  transports_->close();
}

}  // namespace tessera::cli
