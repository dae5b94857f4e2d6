# PAE with the no-execute bit: data can be read, not run.
# mode: pae
# needs: 32-bit paging
# expect: 0xc3 0x0e00000e 0x11 0x400000 0x22
.include "protected.inc"
main:
    movl $0xc0000080, %ecx
    rdmsr
    orl $0x800, %eax
    wrmsr
    movb $0xc3, 0x400000
    movl $0x80000000, 0x11014
    movl %cr3, %eax
    movl %eax, %cr3
    movzbl 0x400000, %eax
    outl %eax, $0x80
    catch 1f
    movl $0x400000, %eax
    call *%eax
1:  report $0x22
    finish
